"""How a question is put behind a context: to any model, and to the bundled one in its training."""

INSTRUCTION = "\nBased on the content of the book, Question: {question}\nAnswer:"
NO_QUESTION = "N/A"
