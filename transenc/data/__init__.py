"""Pairs: sets that have a name (`known`), published (`published`) or of the hub (`hub`); own files (`files`, `lines`,
`scores`); distinct sentences (`sentences`); pairs made of single ones (`mining`), and of parts of pairs (`crops`);
tokens (`tokens`); batches (`module`).
"""
