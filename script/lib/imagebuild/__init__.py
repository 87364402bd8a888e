"""Builds Hatchery's images: obtains mkosi, runs it with the host's own package mirror, keeps results by digest.

Only the standard library is used, so that it runs on a bare Debian host. Arrows point down:
`__main__ -> {bundle, addon} -> {disk, secure_boot} -> kinds -> mkosi -> {apt, inputs} -> command`.
"""
