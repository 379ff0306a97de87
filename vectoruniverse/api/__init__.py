"""What a program or notebook imports: vectors and classes from finished runs."""
