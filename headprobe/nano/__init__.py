"""The bundled model: its language, its tokenizer, its needles, its training."""
