"""What is typed: one file a command. Imports no torch, vllm or ray until a command needs them."""
