# SPDX-License-Identifier: Apache-2.0
"""What the tests are made of: bundles and images, places where other tools run, tables of what is
expected.

`support` has what most need (the installed urunc, a bundle, comparing what the kernel holds),
`places` the real engines and what they live in, `smoke` what each of them is to do, the rest one
subject each.
"""
