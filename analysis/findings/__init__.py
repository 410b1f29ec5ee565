"""What the numbers say, in words: the verdict, checks, confirmation, audit."""
