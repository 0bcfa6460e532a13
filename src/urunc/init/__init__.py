# SPDX-License-Identifier: Apache-2.0
"""The container's first process, from its fork to execve of the monitor.

`clone` and `prefork` are the runtime's side, before and around the fork; `setup` describes, as a
list, what `main` executes, `steps` are what it can execute. After `PivotRoot` there is nothing left
to import from, so `main` imports all it needs before; it may not import plan/ or lifecycle/.
"""
