"""Converting: a model's weights in smaller formats, in one GGUF file."""
