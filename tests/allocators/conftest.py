from hypothesis import settings

# The same examples on every run, and no time limit that a busy machine would break.
settings.register_profile("headprobe", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("headprobe")
