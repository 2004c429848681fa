"""Pairs: published sets (`published`), sets of the hub (`hub`), own files (`files`, `lines`, `scores`), distinct
sentences (`sentences`), pairs made of single ones (`mining`), tokens (`tokens`), batches (`module`).
"""
