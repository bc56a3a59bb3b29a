"""What needs a GPU; only torch, transformers and DeepSpeed beside it, neither Ray nor vLLM nor pydantic."""
