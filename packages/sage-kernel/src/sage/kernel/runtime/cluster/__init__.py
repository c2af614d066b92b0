"""What runs on other machines: processes of a cluster, and the calls that go to and fro."""
