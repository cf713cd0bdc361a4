"""Families of operators as tensor expressions of TVM, in the forms that the templates of ``space`` serve."""
