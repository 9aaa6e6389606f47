/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The completion count of a direct I/O request (src/dio/dio.h, dio.c), for Spin.  The steps have the same names there:
 *
 *	COUNT    dio_send: one reference for a run, before it is sent
 *	ERROR    dio_set_error: the first error of a run stays (relaxed compare and exchange)
 *	PUBLISH  dio_drain: `wait` := true (plain memory)
 *	DROP     dio_put: one reference less (acq_rel); whoever takes the last one goes on
 *	DECIDE   dio_put: the last one reads `wait`
 *	FINISH   dio_finish_async: nobody waits: read the error, answer, the memory goes
 *	DRAINED  dio_put: `drained` := true (release)
 *	RESULT   dio_drain: having seen `drained` (acquire), the waiter reads the error and goes on
 *
 * Spin's own memory is sequentially consistent.  So what orders a store before, or a load after, is made explicit, in the way of C11:
 * every process has a view, the set of stores that it must see; a store that is not in it may be seen or not (it is reordered behind, or the load
 * before, what would have ordered it).  A release leaves the view with the location, an acquire takes it from there; a
 * read-modify-write without release passes on what was there (a release sequence).  A run is sent and completes
 * through the kernel, which orders both.
 *
 * Each ordering can be taken away, one side at a time (-DSUB_REL=0 ...), and then an assertion or a process that waits for ever
 * must be found: tests/sim/20-dio-count.py.
 */
#ifndef N
#define N 3		/* runs */
#endif
#ifndef SUB_REL
#define SUB_REL 1	/* DROP by the submitter: release, orders PUBLISH before it */
#endif
#ifndef SUB_ACQ
#define SUB_ACQ 1	/* DROP by the submitter: acquire, orders RESULT (and FINISH) after it if it was the last */
#endif
#ifndef RUN_REL
#define RUN_REL 1	/* DROP by a completion: release, orders ERROR before it */
#endif
#ifndef RUN_ACQ
#define RUN_ACQ 1	/* DROP by a completion: acquire, orders DECIDE and FINISH after it */
#endif
#ifndef DRAINED_REL
#define DRAINED_REL 1	/* DRAINED: release, passes on what the last one has acquired */
#endif
#ifndef DRAINED_ACQ
#define DRAINED_ACQ 1	/* the waiter's load of it: acquire, orders RESULT after it */
#endif
#ifndef COUNT_FIRST
#define COUNT_FIRST 1	/* not an ordering of memory: COUNT comes before the run is sent */
#endif
#ifndef OWN_REF
#define OWN_REF 1	/* the submitter has a reference of its own */
#endif

#define V_WAIT 1	/* the store of PUBLISH */
#define V_ERROR 2	/* the store of ERROR */

byte ref = OWN_REF;
bool wait, error, drained;
byte ref_view, drained_view;

/* what is true, for the assertions */
bool failed, hole, freed;
byte answers;

inline touch()
{
	assert(!freed)
}

inline see(store, value, into)
{
	if
	:: !value -> into = 0
	:: value -> into = 1
	:: value && !(view & store) -> into = 0
	fi
}

inline DROP(acq, rel)
{
	d_step {
		touch();
		assert(ref > 0);
		old = ref_view;
		if
		:: rel -> ref_view = ref_view | view
		:: else
		fi;
		if
		:: acq -> view = view | old
		:: else
		fi;
		old = ref;
		ref--
	}
}

inline last_one()
{
	touch();
	see(V_WAIT, wait, seen);	/* DECIDE */
	if
	:: seen ->
		d_step {		/* DRAINED */
			touch();
			if
			:: DRAINED_REL -> drained_view = view
			:: else
			fi;
			drained = 1
		}
	:: else ->			/* FINISH */
		assert(!hole);
		touch();
		see(V_ERROR, error, seen);
		assert(seen == failed);
		answers++;
		freed = 1
	fi
}

proctype completion(byte view)
{
	byte old, sent_again;
	bool seen;

	/* A short transfer is sent again by the engine (io/ring.c); the request does not notice. */
	if
	:: sent_again++
	:: true
	fi;
	if
	:: true				/* all bytes */
	:: d_step {
		touch();
		failed = 1;
		error = 1;		/* ERROR; also one who comes second has seen the first */
		view = view | V_ERROR
	   }
	fi;
	DROP(RUN_ACQ, RUN_REL);
	if
	:: old == 1 -> last_one()
	:: else
	fi
}

active proctype submitter()
{
	byte old, view, i;
	bool seen;

	for (i : 1 .. N) {
		if
		:: COUNT_FIRST -> ref++	/* COUNT */
		:: else
		fi;
		run completion(view);
		if
		:: !COUNT_FIRST -> ref++
		:: else
		fi
	}
	if
	:: hole = 1;
	   touch();
	   wait = 1;			/* PUBLISH */
	   view = view | V_WAIT
	:: true
	fi;
	if
	:: OWN_REF ->
		DROP(SUB_ACQ, SUB_REL);
		if
		:: old == 1 -> last_one()
		:: else
		fi
	:: else
	fi;
	if
	:: hole ->
		drained;
		if
		:: DRAINED_ACQ -> view = view | drained_view
		:: else
		fi;
		touch();
		see(V_ERROR, error, seen);	/* RESULT */
		assert(seen == failed);
		answers++;
		freed = 1
	:: else
	fi;
	/* The others have nothing left to do that would touch the request. */
	_nr_pr == 1;
	assert(answers == 1 && ref == 0)
}
