"""Pairs: published sets (`published`), sets of the hub (`hub`), a person's own files (`files`, `lines`, `scores`), their
distinct sentences (`sentences`), pairs made of single ones (`mining`), tokens (`tokens`), batches (`module`).
"""
