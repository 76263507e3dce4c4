"""The zip reader that both the service (to check uploads) and the workers (to unpack packages) use.

It imports only the standard library, so that both can import it. An archive is read
in three steps:

1. `directory` finds the central directory and reads its entries.
2. `names` and `tree` turn the entries' names into folders, files and links.
3. `data` inflates the data of an entry and compares its size and checksum with the directory.

`archive.Archive` does all three. An archive that the service accepts is therefore
unpacked by the worker to the same tree.
"""
