"""Read what people bring, bounded and strict in its form, and show it without harm."""
