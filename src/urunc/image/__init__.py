# SPDX-License-Identifier: Apache-2.0
"""`urunc image`: makes OCI images of unikernels, and says what is in those of others.

Runs as the caller, who need not be root; no daemon is asked to build, nothing of an image is
executed. Images are strangers': their blobs are held against their digests, their paths are looked
up in what their layers list, never on this machine. What is made lies in files without names until
it is whole. `create` and its kin do not import this room.
"""
