# SPDX-License-Identifier: GPL-2.0-or-later
"""GFS2 nodes under User-Mode Linux. See docs/uml.md."""
from . import volume
from .client import (Cluster, ClusterError, Command, CommandFailed, Node, Result, Timeout,
                     Unavailable, find_linux, make_volume)

__all__ = ['Cluster', 'ClusterError', 'Command', 'CommandFailed', 'Node', 'Result', 'Timeout',
           'Unavailable', 'find_linux', 'make_volume', 'volume']
