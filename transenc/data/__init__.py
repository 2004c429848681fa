"""Pairs: published sets (`published`), sets of the hub (`hub`), a person's own files (`files`), pairs made of single
sentences (`mining`), tokens (`tokens`), batches (`module`).
"""
