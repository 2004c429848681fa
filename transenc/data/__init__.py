"""Pairs: published sets (`published`), sets of the hub (`hub`), a person's own files (`files`) and their scores
(`scores`), distinct sentences (`sentences`), pairs made of single sentences (`mining`), tokens (`tokens`), batches
(`module`).
"""
