"""More requests in flight than the process may open files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SERVER = """
import asyncio, json
BODY = json.dumps({
    "id": "1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": "Hello"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}).encode()
TYPE = "Content-Type: application/json\\r\\n"
HEAD = f"HTTP/1.1 200 OK\\r\\n{TYPE}Content-Length: {len(BODY)}\\r\\n\\r\\n"
at_once = most = 0
enough = asyncio.Event()  # for what is asked for: else a slow client would open few at a time

async def serve(reader, writer):
    global at_once, most
    at_once += 1
    most = max(most, at_once)
    if most >= 100:
        enough.set()
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = [line for line in head.lower().split(b"\\r\\n") if b"content-length" in line]
            await reader.readexactly(int(length[0].split(b":")[1]))
            await enough.wait()
            await asyncio.sleep(0.2)
            writer.write(HEAD.encode() + BODY)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        at_once -= 1
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(input)
    print(most, flush=True)

asyncio.run(main())
"""
CLIENT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from sage.kernel.api import LocalEnvironment
from sage.libs.rag.generator import OpenAIGenerator
env, answers = LocalEnvironment("few-files"), []
stream = env.from_collection([f"question {n}" for n in range(600)])
stream = stream.map(
    OpenAIGenerator, model="m", base_url=sys.argv[1], api_key="none", max_in_flight=500, retries=0
)
stream.sink(answers.append)
env.submit()
print(len(answers))
"""


def test_500_requests_in_flight_with_256_files(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            done = subprocess.run(
                [sys.executable, "-c", CLIENT, f"http://127.0.0.1:{port}/v1"],
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        finally:
            most, _ = server.communicate("\n", timeout=60)
    assert (done.returncode, done.stdout) == (0, "600\n"), done.stderr
    assert 100 <= int(most) <= 200
