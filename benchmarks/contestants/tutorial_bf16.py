"""The tutorial's loop with bfloat16 autocast and channels-last convolutions, so that nobody can say
that all this project does is another type."""

from benchmarks.contestants.tutorial import main

if __name__ == "__main__":
    main(bf16=True)
