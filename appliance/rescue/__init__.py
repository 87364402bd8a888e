"""When something was lost: backups of the pool's metadata and of the catalog, repair of the one, restoring the other.

It stands on the catalog and on the store. The service is not running when anything here but a backup is done.
"""
