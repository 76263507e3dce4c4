"""The one reader of zip archives: the service checks uploads with it, and workers unpack packages with it.

It uses the standard library alone and imports nothing of the worker or of the
service, so that both can import it. An archive is read in three steps:

1. `directory` finds the central directory and reads its entries.
2. `names` and `tree` turn the entries' names into folders, files and links.
3. `data` inflates the data of an entry and compares it with what the directory says.

`archive.Archive` does all three. An archive that the service accepts is therefore
unpacked by the worker to the same tree.
"""
