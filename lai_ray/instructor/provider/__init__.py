"""What a provider is sent, answers and refuses, over any protocol that looks like OpenAI's."""
