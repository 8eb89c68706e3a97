"""Make the bundled nano model: its lessons, tokenizer, needles, training and examination."""
