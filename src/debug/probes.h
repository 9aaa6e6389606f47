/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * USDT probes at the points of the events (gfs2-fuse-events(5)), one for each event, provider `gfs2_fuse`.
 *
 * Nobody attached: a nop each.  Six arguments, since bpftrace on x86 takes no more; arg3 is the request and arg5 the reason (a string) in all:
 *	about locks (glock_*, dlm_*, break_*)	type, number, from << 8 | to (lm_state; 255: does not apply), request, pid, reason
 *	the others				inode, offset, length, request, result, reason
 * Without <sys/sdt.h> (Debian's systemtap-sdt-dev) when built: nothing.
 */
#ifndef GFS2FUSE_PROBES_H
#define GFS2FUSE_PROBES_H

#include "debug/event.h"

#ifdef HAVE_SYS_SDT_H
#include <sys/sdt.h>

#define GFS2_PROBE_LOCK(name) DTRACE_PROBE6(gfs2_fuse, name, gl_type, number, states, req, pid, reason)
#define GFS2_PROBE_IO(name) DTRACE_PROBE6(gfs2_fuse, name, number, off, len, req, rc, reason)

/* @states: from << 8 | to; @reason: a string */
static inline void gfs2_probe_fields(enum gfs2_event_type type, unsigned gl_type, uint64_t number, unsigned states, uint64_t off,
				    uint64_t len, int64_t rc, uint64_t req, int32_t pid, const char *reason)
{
	switch (type) {
	case EV_GLOCK_STATE: GFS2_PROBE_LOCK(glock_state); break;
	case EV_GLOCK_QUEUE: GFS2_PROBE_LOCK(glock_queue); break;
	case EV_GLOCK_PROMOTE: GFS2_PROBE_LOCK(glock_promote); break;
	case EV_GLOCK_DEQUEUE: GFS2_PROBE_LOCK(glock_dequeue); break;
	case EV_GLOCK_DEMOTE_RQ: GFS2_PROBE_LOCK(glock_demote_rq); break;
	case EV_DLM_LOCK: GFS2_PROBE_LOCK(dlm_lock); break;
	case EV_DLM_AST: GFS2_PROBE_LOCK(dlm_ast); break;
	case EV_DLM_BAST: GFS2_PROBE_LOCK(dlm_bast); break;
	case EV_DIO_BEGIN: GFS2_PROBE_IO(dio_begin); break;
	case EV_DIO_SUBMIT: GFS2_PROBE_IO(dio_submit); break;
	case EV_DIO_HOLE: GFS2_PROBE_IO(dio_hole); break;
	case EV_DIO_DRAIN_BEGIN: GFS2_PROBE_IO(dio_drain_begin); break;
	case EV_DIO_DRAIN_END: GFS2_PROBE_IO(dio_drain_end); break;
	case EV_DIO_UPGRADE: GFS2_PROBE_IO(dio_upgrade); break;
	case EV_DIO_BUFFERED: GFS2_PROBE_IO(dio_buffered); break;
	case EV_DIO_END: GFS2_PROBE_IO(dio_end); break;
	case EV_LOG_FLUSH: GFS2_PROBE_IO(log_flush); break;
	case EV_MAP: GFS2_PROBE_IO(map); break;
	case EV_DATA_IO: GFS2_PROBE_IO(data_io); break;
	case EV_BREAK_HIT: GFS2_PROBE_LOCK(break_hit); break;
	case EV_BREAK_GO: GFS2_PROBE_LOCK(break_go); break;
	case EV_GLOCK_HOLD: GFS2_PROBE_LOCK(glock_hold); break;
	case EV_NR: break;
	}
}
#else
static inline void gfs2_probe_fields(enum gfs2_event_type type, unsigned gl_type, uint64_t number, unsigned states, uint64_t off,
				    uint64_t len, int64_t rc, uint64_t req, int32_t pid, const char *reason)
{
}
#endif

static inline void gfs2_probe(const struct gfs2_event *e)
{
	unsigned states = (e->fields & EVF_FROM ? e->from : 255u) << 8 | (e->fields & EVF_TO ? e->to : 255u);

	gfs2_probe_fields((enum gfs2_event_type)e->type, e->gl_type, e->gl_number, states, e->off, e->len, e->rc, e->req, e->pid,
			 e->reason);
}

#endif
