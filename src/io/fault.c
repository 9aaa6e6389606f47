/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fault rules: which requests fail, come short or come late.
 *
 * Every rule keeps its own count of hits.  Several rules may hit one request: the first error and
 * the first short length win, the longest delay.  Rules live under e_lock; e_has_faults keeps
 * engines without rules (all but those under test) from taking it.
 */
#include "io/engine.h"

#include "util/util.h"

struct fault_rule {
	struct io_fault f;
	uint64_t hits;
	struct list_head list;
};

int io_fault_add(struct io_engine *e, const struct io_fault *f)
{
	struct fault_rule *rule;

	if (f->op < -1 || f->op > IO_FLUSH || f->cls < -1 || f->cls >= IO_NR_CLASSES ||
	    f->error < 0 || f->error > 4095 || f->pos + f->len < f->pos)
		return -EINVAL;
	rule = xzalloc(sizeof(*rule));
	rule->f = *f;

	rmutex_lock(&e->e_lock);
	list_add_tail(&rule->list, &e->e_faults);
	atomic_store_explicit(&e->e_has_faults, true, memory_order_relaxed);
	rmutex_unlock(&e->e_lock);
	return 0;
}

void io_fault_clear(struct io_engine *e)
{
	struct fault_rule *rule, *tmp;

	rmutex_lock(&e->e_lock);
	atomic_store_explicit(&e->e_has_faults, false, memory_order_relaxed);
	list_for_each_entry_safe(rule, tmp, &e->e_faults, list) {
		list_del_init(&rule->list);
		free(rule);
	}
	rmutex_unlock(&e->e_lock);
}

static bool rule_covers(const struct io_fault *f, const struct io_req *req)
{
	if ((f->op != -1 && f->op != (int)req->op) || (f->cls != -1 && f->cls != (int)req->cls))
		return false;
	if (!f->len)
		return true;
	/* A flush has no position. */
	if (req->op == IO_FLUSH)
		return false;
	return req->pos < f->pos + f->len && f->pos < req->pos + req->total;
}

/* true: @hit says something. */
bool fault_match(struct io_engine *e, const struct io_req *req, struct fault_hit *hit)
{
	struct fault_rule *rule;

	*hit = (struct fault_hit){ 0 };
	rmutex_lock(&e->e_lock);
	list_for_each_entry(rule, &e->e_faults, list) {
		const struct io_fault *f = &rule->f;

		if (!rule_covers(f, req))
			continue;
		rule->hits++;
		if (rule->hits <= f->skip)
			continue;
		if (f->count && rule->hits - f->skip > f->count)
			continue;
		if (!hit->error)
			hit->error = f->error;
		if (!hit->short_bytes)
			hit->short_bytes = f->short_bytes;
		hit->delay_us = max_t(uint32_t, hit->delay_us, f->delay_us);
	}
	rmutex_unlock(&e->e_lock);
	return hit->error || hit->short_bytes || hit->delay_us;
}

static int parse_name(const char *const *names, unsigned nr, const char *text, int *val)
{
	if (!strcmp(text, "any")) {
		*val = -1;
		return 0;
	}
	for (unsigned i = 0; i < nr; i++)
		if (!strcmp(text, names[i])) {
			*val = i;
			return 0;
		}
	return -EINVAL;
}

static int parse_number(const char *text, uint64_t max, uint64_t *val)
{
	char *end;

	/* strtoull would take a sign and blanks. */
	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	*val = strtoull(text, &end, 0);
	return errno || *end || *val > max ? -EINVAL : 0;
}

static int parse_word(const char *key, const char *val, struct io_fault *f)
{
	static const char *const ops[] = { "read", "write", "flush" };
	static const char *const classes[] = { "data", "meta", "log", "dio" };
	uint64_t n;

	if (!strcmp(key, "op"))
		return parse_name(ops, ARRAY_SIZE(ops), val, &f->op);
	if (!strcmp(key, "cls"))
		return parse_name(classes, ARRAY_SIZE(classes), val, &f->cls);
	if (!strcmp(key, "pos"))
		return parse_number(val, UINT64_MAX, &f->pos);
	if (!strcmp(key, "len"))
		return parse_number(val, UINT64_MAX, &f->len);
	if (parse_number(val, UINT32_MAX, &n))
		return -EINVAL;
	if (!strcmp(key, "skip"))
		f->skip = n;
	else if (!strcmp(key, "count"))
		f->count = n;
	else if (!strcmp(key, "short"))
		f->short_bytes = n;
	else if (!strcmp(key, "delay_us"))
		f->delay_us = n;
	else if (!strcmp(key, "error") && n <= 4095)
		f->error = n;
	else
		return -EINVAL;
	return 0;
}

int io_fault_parse(const char *text, struct io_fault *f)
{
	char *copy = strdup(text), *save = NULL;
	int error = copy ? 0 : -ENOMEM;

	*f = (struct io_fault){ .op = -1, .cls = -1 };
	for (char *word = copy ? strtok_r(copy, ",", &save) : NULL; word && !error;
	     word = strtok_r(NULL, ",", &save)) {
		char *eq = strchr(word, '=');

		if (!eq) {
			error = -EINVAL;
			break;
		}
		*eq = 0;
		error = parse_word(word, eq + 1, f);
	}
	free(copy);
	if (!error && f->pos + f->len < f->pos)
		error = -EINVAL;
	/* A rule that does nothing is a misspelt one. */
	if (!error && !f->error && !f->short_bytes && !f->delay_us)
		error = -EINVAL;
	return error;
}
