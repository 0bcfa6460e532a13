# SPDX-License-Identifier: Apache-2.0
"""What was asked: config.json and the image, read, checked and kept as records.

May import the kernel's interfaces in linux/ and what is flat, nothing of plan/ or of what acts.
Complaints name the place in the document (SpecError) or in the image (ImageError). Nothing is
decided here and nothing made.
"""
