"""`python -m finetune` is the command `finetune`."""

from finetune.cli import main

if __name__ == "__main__":
    main()
