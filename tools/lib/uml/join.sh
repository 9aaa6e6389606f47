#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# In a node: joins it to the cluster of nodes 1 to $GFS2_NODES. Done when those that are alive
# ($GFS2_EXPECT) are members, the cluster is quorate and the DLM knows their addresses.
set -eu
net=10.77.0
tries=800	# a bound: that many looks
pause=0.2	# seconds between them; many nodes looking would keep each other from getting there
[ "$GFS2_NODES" -le 8 ] || pause=1

give_up()
{
	echo "$1"
	tail -n 20 /var/log/corosync/corosync.log /var/log/dlm_controld/dlm_controld.log 2>/dev/null || true
	exit 1
}

# Looks until a command succeeds.
wait_for()
{
	what=$1
	shift
	n=0
	until "$@" >/dev/null 2>&1; do
		n=$((n + 1))
		[ "$n" -lt "$tries" ] || give_up "$what: not reached"
		sleep $pause
	done
}

# Each of the nodes is a member as corosync sees it.
all_members()
{
	members=$(corosync-quorumtool -l | awk '$1 ~ /^[0-9]+$/ { print $1 }')
	for node in $GFS2_EXPECT; do
		echo "$members" | grep -qx "$node" || return 1
	done
}

# dlm_controld has told the kernel the address of each: until then there is no lockspace to be had.
all_addresses()
{
	dlm_tool status | grep -q "^node $GFS2_NODE M" || return 1
	for node in $GFS2_EXPECT; do
		[ -d "/sys/kernel/config/dlm/cluster/comms/$node" ] || return 1
	done
	[ "$(cat "/sys/kernel/config/dlm/cluster/comms/$GFS2_NODE/local")" = 1 ]
}

# corosync.conf's parser wants every brace to end its line.
configuration()
{
	printf 'totem {\n version: 2\n cluster_name: g2\n transport: udpu\n}\nnodelist {\n'
	n=1
	while [ "$n" -le "$GFS2_NODES" ]; do
		printf ' node {\n  ring0_addr: %s.%d\n  nodeid: %d\n  name: node%d\n }\n' $net $n $n $n
		n=$((n + 1))
	done
	printf '}\nquorum {\n provider: corosync_votequorum\n'
	[ "$GFS2_NODES" -gt 2 ] || printf ' two_node: 1\n wait_for_all: 0\n'
	printf '}\nlogging {\n to_logfile: yes\n logfile: /var/log/corosync/corosync.log\n to_syslog: no\n}\n'
}

ip addr add "$net.$GFS2_NODE/24" dev vec0
ip link set vec0 up
mkdir -p /run/corosync /var/log/corosync /run/dlm_controld /var/log/dlm_controld
configuration >/etc/corosync/corosync.conf
corosync
wait_for 'corosync answers' corosync-quorumtool -s
# Two nodes are quorate alone, too: to go on without the others would be to split the cluster.
wait_for "members: $GFS2_EXPECT" all_members
wait_for 'a quorum' sh -c 'corosync-quorumtool -s | grep -q "^Quorate: *Yes"'
dlm_controld --enable_fencing=0 --enable_plock=1
wait_for 'dlm_controld has joined' all_addresses
echo "node $GFS2_NODE has joined"
