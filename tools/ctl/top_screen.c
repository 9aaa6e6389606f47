/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `top` on a terminal: the list of locks, and the page of one of them.
 *
 * One loop waits for keys, events, the clock and signals.  The terminal is put back at every end of the program that this can see: by return, by exit()
 * (a handler) and by SIGINT, SIGTERM and SIGHUP, which end the loop; Ctrl-Z is ncurses' own.  A resize comes as a key.
 */
#include "top.h"

#include <errno.h>
#include <ncurses.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIN_ROWS 6
#define MIN_COLS 40
#define HEAD_LINES 4		/* above the list */
#define PAGE_EVENTS "glock_state,glock_demote_rq,glock_hold,dlm_lock,dlm_ast,dlm_bast,dio_hole,dio_upgrade,dio_buffered,break_hit,break_go"

enum colour { COLOUR_PLAIN, COLOUR_SH, COLOUR_DF, COLOUR_EX, COLOUR_HEAD, COLOUR_WAIT };

struct screen {
	struct top *t;
	bool end, paused, help;
	char chosen[40];		/* the lock that is marked */
	size_t first;			/* row at the top of the list */
	char page[40];			/* the lock whose page is open; "": none */
	char **lines;			/* of the page */
	size_t nr_lines, page_first;
	bool tail;			/* the page shows its end, the newest */
	bool typing;			/* the filter is being typed */
	char before[64];		/* the filter as it was */
	bool colours;
};

static bool screen_is_on;

static void screen_off(void)
{
	if (screen_is_on)
		endwin();
	screen_is_on = false;
}

/* --- drawing --- */

/* One line, cut at the screen's edge, the rest of it cleared. */
static void put_line(int y, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put_line(int y, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (y < 0 || y >= LINES)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
	mvaddnstr(y, 0, text, COLS);
	clrtoeol();
}

static attr_t state_colour(const struct screen *s, const char *state)
{
	int pair = !strcmp(state, "EX") ? COLOUR_EX : !strcmp(state, "DF") ? COLOUR_DF : !strcmp(state, "SH") ? COLOUR_SH : COLOUR_PLAIN;

	return s->colours ? COLOR_PAIR(pair) : A_NORMAL;
}

static void draw_head(const struct screen *s)
{
	const struct top *t = s->t;
	char proto[32] = "", a[16], b[16], c[16], d[16], direct[64];
	time_t now = time(NULL);
	long long node = 0;
	struct tm tm;
	int share = top_direct(&t->sum);

	json_get(t->c->greeting, "lockproto", proto, sizeof(proto));
	json_number(t->c->greeting, "node", &node);
	localtime_r(&now, &tm);
	attron(A_BOLD);
	put_line(0, "%02d:%02d:%02d %s  %s node %lld  every %g s%s", tm.tm_hour, tm.tm_min, tm.tm_sec, t->c->mountpoint, proto, node, t->interval,
		 s->paused ? "  PAUSED" : "");
	attroff(A_BOLD);
	put_line(1, "locks %zu: EX %zu DF %zu SH %zu UN %zu  waiters %zu  stopped %zu  missed %s", t->locks, t->states[3], t->states[2],
		 t->states[1], t->states[0], t->waiters, t->stops, top_number((double)t->missed_then, a, sizeof(a)));
	direct[0] = 0;
	if (share >= 0)
		snprintf(direct, sizeof(direct), " direct %d%% fallback %d%%", share, 100 - share);
	put_line(2, "req/s %s  trans/s %s  bounces/s %s  I/O/s %s%s", top_number(top_rate(t, t->sum.requests), a, sizeof(a)),
		 top_number(top_rate(t, t->sum.transitions), b, sizeof(b)), top_number(top_rate(t, t->sum.bounces), c, sizeof(c)),
		 top_number(top_rate(t, t->sum.dio), d, sizeof(d)), direct);
}

static int list_rows(void)
{
	return LINES - HEAD_LINES - 1;
}

static size_t chosen_row(const struct screen *s)
{
	for (size_t i = 0; i < s->t->nr; i++)
		if (!strcmp(s->t->rows[i].name, s->chosen))
			return i;
	return 0;
}

static void choose_row(struct screen *s, long row)
{
	if (row >= (long)s->t->nr)
		row = (long)s->t->nr - 1;
	if (row < 0)
		row = 0;
	if (s->t->nr)
		strcpy(s->chosen, s->t->rows[row].name);
}

/* "EX", or "EX>SH" while it changes. */
static void state_words(const struct top_row *r, char *out, size_t size)
{
	snprintf(out, size, strcmp(r->state, r->target) ? "%s>%s" : "%s", r->state, r->target);
}

/* On a narrow screen what the others tell as well is left out, so that there is room to see where: the type is the digit before the slash. */
enum column { COL_GLOCK, COL_TYPE, COL_STATE, COL_HOLD, COL_WAIT, COL_REQUESTS, COL_TRANSITIONS, COL_BOUNCES, COL_DIO, COL_DIRECT, COL_FALLBACK, NR_COLUMNS };
#define WIDE_COLS 100
static const struct {
	const char *title;
	int width;		/* negative: flush left */
	bool wide;		/* only from WIDE_COLS on */
} columns[NR_COLUMNS] = {
	[COL_GLOCK] = { "GLOCK", -12, false },	   [COL_TYPE] = { "TYPE", -7, true },	  [COL_STATE] = { "STATE", -5, false },
	[COL_HOLD] = { "HOLD", 4, false },	   [COL_WAIT] = { "WAIT", 4, false },	  [COL_REQUESTS] = { "REQ/s", 6, false },
	[COL_TRANSITIONS] = { "TRAN/s", 6, false }, [COL_BOUNCES] = { "BNCE/s", 6, false }, [COL_DIO] = { "I/O/s", 6, true },
	[COL_DIRECT] = { "DIRCT", 5, true },	   [COL_FALLBACK] = { "FALLB", 5, false },
};

static bool column_shown(enum column c)
{
	return !columns[c].wide || COLS >= WIDE_COLS;
}

/* Where the column begins; NR_COLUMNS: what follows the last one. */
static int column_at(enum column c)
{
	int at = 0;

	for (enum column i = 0; i < c; i++)
		if (column_shown(i))
			at += abs(columns[i].width) + 1;
	return at;
}

static void put_columns(int y, const char *const text[NR_COLUMNS], const char *where)
{
	char line[512];
	size_t len = 0;

	for (enum column i = 0; i < NR_COLUMNS; i++)
		if (column_shown(i) && len + 32 < sizeof(line))
			len += (size_t)snprintf(line + len, 32, "%*s ", columns[i].width, text[i]);
	put_line(y, "%s%s%*s", line, where, COLS, "");
}

/* A path that is too long loses its beginning: files differ in their ends. */
static void fit_where(char *where)
{
	size_t room = COLS > column_at(NR_COLUMNS) ? (size_t)(COLS - column_at(NR_COLUMNS)) : 0, len = strlen(where);
	char *from;

	if (len <= room || room < 4)
		return;
	from = where + len - room + 2;
	/* Not in the middle of a character. */
	while ((*from & 0xc0) == 0x80)
		from++;
	memmove(where + 2, from, strlen(from) + 1);
	memcpy(where, "..", 2);
}

static void draw_row(const struct screen *s, int y, const struct top_row *r, bool marked)
{
	const struct top *t = s->t;
	const char *path = paths_of_lock(t->paths, r->name);
	char state[12], holders[12], waiters[12], a[16], b[16], c[16], d[16], direct[16], fallback[16], where[PATH_MAX];
	int share = top_direct(&r->n), state_at = column_at(COL_STATE), wait_at = column_at(COL_WAIT);
	unsigned long long number;
	const char *const text[NR_COLUMNS] = {
		[COL_GLOCK] = r->name, [COL_TYPE] = top_type(r->name), [COL_STATE] = state, [COL_HOLD] = holders, [COL_WAIT] = waiters,
		[COL_REQUESTS] = top_number(top_rate(t, r->n.requests), a, sizeof(a)),
		[COL_TRANSITIONS] = top_number(top_rate(t, r->n.transitions), b, sizeof(b)),
		[COL_BOUNCES] = top_number(top_rate(t, r->n.bounces), c, sizeof(c)),
		[COL_DIO] = top_number(top_rate(t, r->n.dio), d, sizeof(d)), [COL_DIRECT] = direct, [COL_FALLBACK] = fallback,
	};

	state_words(r, state, sizeof(state));
	snprintf(holders, sizeof(holders), "%u", r->holders);
	snprintf(waiters, sizeof(waiters), "%u", r->waiters);
	snprintf(direct, sizeof(direct), share < 0 ? "-" : "%d%%", share);
	snprintf(fallback, sizeof(fallback), share < 0 ? "-" : "%d%%", 100 - share);
	snprintf(where, sizeof(where), "%s", path ? path : "");
	if (!path && (r->name[0] == '2' || r->name[0] == '5') && sscanf(r->name + 2, "%llx", &number) == 1)
		snprintf(where, sizeof(where), "inode:%llu", number);
	fit_where(where);
	attron(marked ? A_REVERSE : A_NORMAL);
	put_columns(y, text, where);
	attroff(marked ? A_REVERSE : A_NORMAL);
	if (!marked && state_at + 5 < COLS)
		mvchgat(y, state_at, 5, A_NORMAL, (short)(s->colours ? PAIR_NUMBER(state_colour(s, r->state)) : 0), NULL);
	if (!marked && r->waiters && wait_at + 4 < COLS)
		mvchgat(y, wait_at, 4, A_BOLD, s->colours ? COLOUR_WAIT : 0, NULL);
}

static void draw_list(struct screen *s)
{
	const struct top *t = s->t;
	size_t rows = (size_t)(list_rows() > 0 ? list_rows() : 0), at = chosen_row(s);
	const char *titles[NR_COLUMNS];

	if (at < s->first)
		s->first = at;
	if (rows && at >= s->first + rows)
		s->first = at - rows + 1;
	if (s->first + rows > t->nr)
		s->first = t->nr > rows ? t->nr - rows : 0;
	attron(A_REVERSE);
	for (enum column i = 0; i < NR_COLUMNS; i++)
		titles[i] = columns[i].title;
	put_columns(3, titles, "WHERE");
	attroff(A_REVERSE);
	for (size_t i = 0; i < rows; i++) {
		int y = HEAD_LINES + (int)i;

		if (s->first + i < t->nr)
			draw_row(s, y, &t->rows[s->first + i], s->first + i == at);
		else
			put_line(y, "%s", !t->nr && !i ? (t->filter[0] ? "no lock goes with the filter" : "no locks") : "");
	}
	if (s->typing)
		put_line(LINES - 1, "filter: %s", t->filter);
	else
		put_line(LINES - 1, "by %s%s%s%s [rtbwdsn]  / filter  Enter page  space pause  ? help  q quit",
			 top_sort_names[t->sort], t->filter[0] ? ", only \"" : "", t->filter, t->filter[0] ? "\"" : "");
	if (s->typing)
		move(LINES - 1, (int)strlen("filter: ") + (int)strlen(t->filter) < COLS ? (int)(strlen("filter: ") + strlen(t->filter)) : COLS - 1);
}

static void draw_help(void)
{
	static const char *const text[] = {
		"r t b w d s n   sort by requests, transitions, bounces, waiters,",
		"                direct I/O, state, name",
		"/               show only what has this in its name, type, state or path;",
		"                empty: all",
		"arrows, PgUp PgDn Home End   move",
		"Enter           the page of a lock: its dump, counts, times, transitions",
		"q Esc           back, quit",
		"space           stop and go on showing what is new",
		"+ -             slower, faster",
		"",
		"A bounce: another node wants the lock.  FALLB: the part of direct I/O that",
		"asked for EX to be finished buffered; from 100 columns on DIRCT, what went",
		"direct, TYPE and I/O/s, too.  A state A>B is changing.",
		"missed: events that were too many to be read.",
	};
	int y = 0;

	for (size_t i = 0; i < sizeof(text) / sizeof(text[0]); i++)
		put_line(y++, "%s", text[i]);
	for (; y < LINES - 1; y++)
		put_line(y, "%s", "");
	put_line(LINES - 1, "any key: back");
}

/* --- the page of a lock --- */

static void page_clear(struct screen *s)
{
	while (s->nr_lines)
		free(s->lines[--s->nr_lines]);
}

static void page_add(struct screen *s, const char *title, char *text)
{
	char *save = NULL;

	if (!text || !*text) {
		free(text);
		return;
	}
	s->lines = grow(s->lines, s->nr_lines, sizeof(*s->lines));
	s->lines[s->nr_lines++] = must(strdup(title));
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		s->lines = grow(s->lines, s->nr_lines, sizeof(*s->lines));
		s->lines[s->nr_lines++] = must(strdup(line));
	}
	free(text);
}

/* "NAME VALUE" lines as one. */
static char *one_line(char *text)
{
	for (char *c = text; c && *c; c++)
		if (*c == '\n')
			*c = c[1] ? ' ' : 0;
	return text;
}

static void page_fill(struct screen *s)
{
	struct conn *c = s->t->c;

	page_clear(s);
	page_add(s, "-- the lock", ask(c, true, "dump", s->page, NULL));
	if (s->page[0] == '2')
		page_add(s, "-- direct I/O", one_line(ask(c, true, "dio", s->page, NULL)));
	page_add(s, "-- how long it was waited for and held", ask(c, true, "stats", s->page, NULL));
	page_add(s, "-- latest transitions", ask(c, true, "trace", "-s", "0", "-t", "0", "-e", PAGE_EVENTS, "-g", s->page, NULL));
	if (!s->nr_lines)
		page_add(s, "this lock is not in memory any more", must(strdup("\n")));
}

static void draw_page(struct screen *s)
{
	const char *path = paths_of_lock(s->t->paths, s->page);
	size_t rows = (size_t)(LINES > 2 ? LINES - 2 : 0);
	unsigned long long number = 0;

	if (s->tail || s->page_first + rows > s->nr_lines)
		s->page_first = s->nr_lines > rows ? s->nr_lines - rows : 0;
	attron(A_REVERSE);
	if (s->page[0] == '2' && sscanf(s->page + 2, "%llx", &number) == 1)
		put_line(0, "%s  %s  inode:%llu  %s%*s", s->page, top_type(s->page), number, path ? path : "", COLS, "");
	else
		put_line(0, "%s  %s%*s", s->page, top_type(s->page), COLS, "");
	attroff(A_REVERSE);
	for (size_t i = 0; i < rows; i++) {
		const char *line = "";

		if (s->page_first + i < s->nr_lines && s->lines[s->page_first + i])
			line = s->lines[s->page_first + i];
		attron(!strncmp(line, "-- ", 3) ? A_BOLD : A_NORMAL);
		put_line(1 + (int)i, "%s", line);
		attroff(!strncmp(line, "-- ", 3) ? A_BOLD : A_NORMAL);
	}
	put_line(LINES - 1, "up down PgUp PgDn Home End scroll  space pause  q back%s", s->paused ? "   PAUSED" : "");
}

static void draw(struct screen *s)
{
	erase();
	curs_set(s->typing ? 1 : 0);
	if (LINES < MIN_ROWS || COLS < MIN_COLS) {
		put_line(0, "too small");
	} else if (s->help) {
		draw_help();
	} else if (s->page[0]) {
		draw_page(s);
	} else {
		draw_head(s);
		draw_list(s);
	}
	refresh();
}

/* --- keys --- */

static void type_filter(struct screen *s, int key)
{
	char *f = s->t->filter;
	size_t len = strlen(f);

	if (key == '\n' || key == '\r' || key == KEY_ENTER) {
		s->typing = false;
	} else if (key == 27) {
		s->typing = false;
		strcpy(f, s->before);
	} else if (key == KEY_BACKSPACE || key == 127 || key == 8) {
		f[len ? len - 1 : 0] = 0;
	} else if (key == 21) {
		f[0] = 0;
	} else if (key >= ' ' && key < 127 && len + 1 < sizeof(s->t->filter)) {
		f[len] = (char)key;
		f[len + 1] = 0;
	}
	top_arrange(s->t);
}

static void page_key(struct screen *s, int key)
{
	long rows = LINES > 2 ? LINES - 2 : 1, at = (long)s->page_first, last = (long)s->nr_lines - rows;

	switch (key) {
	case 'q':
	case 27:
	case KEY_LEFT:
	case KEY_BACKSPACE:
		s->page[0] = 0;
		page_clear(s);
		return;
	case KEY_UP:
		at--;
		break;
	case KEY_DOWN:
		at++;
		break;
	case KEY_PPAGE:
		at -= rows;
		break;
	case KEY_NPAGE:
		at += rows;
		break;
	case KEY_HOME:
		at = 0;
		break;
	case KEY_END:
		at = last;
		break;
	default:
		return;
	}
	s->page_first = at < 0 || last < 0 ? 0 : (size_t)(at > last ? last : at);
	/* Who looks at the end sees what comes. */
	s->tail = (long)s->page_first >= last && last > 0;
}

static void list_key(struct screen *s, int key)
{
	static const char sorts[] = "rtbwdsn";
	const char *sort = key > 0 && key < 127 ? strchr(sorts, key) : NULL;
	long at = (long)chosen_row(s), rows = list_rows() > 0 ? list_rows() : 1;

	if (sort && *sort) {
		s->t->sort = (enum top_sort)(sort - sorts);
		top_arrange(s->t);
		s->first = 0;
		choose_row(s, 0);
		return;
	}
	switch (key) {
	case 'q':
	case 27:
		s->end = true;
		break;
	case '/':
		s->typing = true;
		strcpy(s->before, s->t->filter);
		break;
	case KEY_UP:
		choose_row(s, at - 1);
		break;
	case KEY_DOWN:
		choose_row(s, at + 1);
		break;
	case KEY_PPAGE:
		choose_row(s, at - rows);
		break;
	case KEY_NPAGE:
		choose_row(s, at + rows);
		break;
	case KEY_HOME:
		choose_row(s, 0);
		break;
	case KEY_END:
		choose_row(s, (long)s->t->nr - 1);
		break;
	case '\n':
	case '\r':
	case KEY_ENTER:
	case KEY_RIGHT:
		if (!s->t->nr)
			break;
		choose_row(s, at);
		strcpy(s->page, s->chosen);
		s->page_first = 0;
		s->tail = false;
		page_fill(s);
		break;
	}
}

static void take_key(struct screen *s, int key)
{
	if (key == KEY_RESIZE)
		return;
	if (s->typing) {
		type_filter(s, key);
	} else if (s->help) {
		s->help = false;
	} else if (key == '?' || key == 'h') {
		s->help = true;
	} else if (key == ' ') {
		s->paused = !s->paused;
	} else if (key == '+' && s->t->interval < 3600) {
		s->t->interval *= 2;
	} else if (key == '-' && s->t->interval > 0.2) {
		s->t->interval /= 2;
	} else if (s->page[0]) {
		page_key(s, key);
	} else {
		list_key(s, key);
	}
}

/* --- the loop --- */

static bool screen_on(struct screen *s)
{
	static bool registered;

	if (!newterm(NULL, stdout, stdin)) {
		complain("this terminal is not known: TERM=%s", getenv("TERM") ? getenv("TERM") : "");
		return false;
	}
	screen_is_on = true;
	if (!registered)
		registered = !atexit(screen_off);
	cbreak();
	noecho();
	nonl();
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	set_escdelay(50);
	s->colours = has_colors() && start_color() == OK;
	if (s->colours) {
		use_default_colors();
		init_pair(COLOUR_SH, COLOR_GREEN, -1);
		init_pair(COLOUR_DF, COLOR_CYAN, -1);
		init_pair(COLOUR_EX, COLOR_YELLOW, -1);
		init_pair(COLOUR_WAIT, COLOR_RED, -1);
	}
	return true;
}

static void take_keys(struct screen *s)
{
	int key;

	while (!s->end && (key = getch()) != ERR)
		take_key(s, key);
}

int top_screen(struct top *t)
{
	struct screen s = { .t = t };
	struct pollfd p[3] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = t->events.fd, .events = POLLIN },
			       { .fd = interrupt_fd(), .events = POLLIN } };
	double next = top_clock();

	if (!top_refresh(t))
		return EXIT_REFUSED;
	if (!screen_on(&s))
		return EXIT_REFUSED;
	while (!s.end && !interrupted() && !t->lost) {
		double left = next - top_clock();

		if (left <= 0 && !s.paused) {
			if (!top_refresh(t))
				break;
			if (s.page[0])
				page_fill(&s);
		}
		if (left <= 0)
			next = top_clock() + t->interval;
		draw(&s);
		/* Until there is something to show: events only count. */
		for (;;) {
			left = next - top_clock();
			if (left <= 0 || interrupted() || t->lost)
				break;
			if (poll(p, 3, conn_has_line(&t->events) ? 0 : (int)(left * 1000) + 1) < 0 && errno != EINTR)
				break;
			if (p[1].revents || conn_has_line(&t->events))
				top_count(t);
			/* The terminal is gone. */
			if (p[0].revents & (POLLHUP | POLLERR | POLLNVAL))
				s.end = true;
			if (!p[1].revents || p[0].revents)
				break;
		}
		take_keys(&s);
	}
	screen_off();
	page_clear(&s);
	free(s.lines);
	return EXIT_DONE;
}
