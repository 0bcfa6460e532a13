# SPDX-License-Identifier: Apache-2.0
"""urunc: an OCI runtime whose containers are unikernels.

Importing this package must cost nothing: every verb pays for it. Keep it at the version.
"""

__version__ = "0.1.0"
OCI_VERSION = "1.3.0"
