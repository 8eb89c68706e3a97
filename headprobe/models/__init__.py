"""Models and tokenizers: found by alias, directory or hub id, loaded, their heads counted."""
