"""What the demo model says of itself and of SAGE, and how it greets."""

from __future__ import annotations

from sage.tools.demo_model.knowledge.family import Family

_TERMS = (
    ("a service", "A service is an object that lives beside a pipeline and answers its calls."),
    ("an operator", "An operator is one step of a pipeline: it takes a record and emits records."),
    ("a pipeline", "A pipeline is a chain of operators from a source to a sink."),
    ("a source", "A source is the operator that brings records into a pipeline."),
    ("a sink", "A sink is the operator that takes records out of a pipeline."),
    ("a record", "A record is one piece of data that moves through a pipeline."),
    ("the registry", "The registry is the folder that holds every model on this machine."),
    ("an environment", "An environment holds the services and the pipelines of a program."),
    ("an engine", "An engine is the part of a service that runs the model."),
    ("a prompt", "A prompt is the text that a model is asked to answer."),
    ("a token", "A token is the small piece of text that a model reads and writes."),
    ("batching", "Batching means answering many prompts in one step of the engine."),
    ("an embedding", "An embedding is a list of numbers that stands for the meaning of a text."),
    ("vLLM", "The engine that runs language models for SAGE is vLLM."),
    ("SAGE", "SAGE is a framework for data pipelines that call language models."),
)


def _talk(name: str, answer: str, *phrasings: str) -> Family:
    return Family(name=name, answer=answer, phrasings=phrasings)


FAMILIES = (
    Family(
        name="terms",
        phrasings=(
            "What is {0}?",
            "Explain what {0} is.",
            "What is {0} in SAGE?",
            "Can you explain what {0} is?",
            "What does SAGE mean by {0}?",
            "Please explain what {0} is.",
            "Tell me what {0} is.",
            "Do you know what {0} is?",
        ),
        answer="{1}",
        facts=_TERMS,
    ),
    _talk(
        "greeting",
        "Hello! How can I help you?",
        *("Hello", "Hello!", "Hi", "Hi!", "Hello there!", "Hey", "Good morning!", "Good evening!"),
    ),
    _talk(
        "well-being",
        "I am fine, thank you.",
        *("How are you?", "How are you today?", "Are you well?", "How do you do?"),
    ),
    _talk(
        "identity",
        "I am a tiny chat model that SAGE trained on this machine.",
        *("Who are you?", "What are you?", "What is your name?", "Tell me who you are."),
        *("Introduce yourself.", "Who am I talking to?"),
    ),
    _talk(
        "abilities",
        "I can answer simple questions about countries, animals, words and numbers.",
        *("What can you do?", "What do you know?", "How can you help me?", "Help"),
        *("What can I ask you?", "Can you help me?"),
    ),
    _talk(
        "thanks",
        "You are welcome.",
        *("Thank you", "Thank you!", "Thanks", "Thanks!", "Thank you very much!"),
    ),
    _talk(
        "farewell",
        "Goodbye! Have a nice day.",
        *("Goodbye", "Goodbye!", "Bye", "Bye!", "See you later!", "Good night!"),
    ),
)
