"""Pairs: the published sets (`published`), a person's own files (`files`), pairs made of single sentences (`mining`),
tokens (`tokens`), batches (`module`).
"""
