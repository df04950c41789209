#include "merge.h"

/* The parts of a word, a list in which a merge makes two neighbours one. */
typedef struct part {
    uint32_t id, before, next; /* NOWHERE at the ends */
} part;
static const uint32_t NOWHERE = UINT32_MAX;

/* Merges that wait, the lowest rank on top and of equals the leftmost: rank << 32 | place of the left part. */
typedef struct queue {
    uint64_t *heap;
    size_t n;
} queue;

static void sift_down(queue *q, size_t i) {
    uint64_t moved = q->heap[i];
    for (size_t child; (child = 2 * i + 1) < q->n; i = child) {
        if (child + 1 < q->n && q->heap[child + 1] < q->heap[child]) child++;
        if (moved <= q->heap[child]) break;
        q->heap[i] = q->heap[child];
    }
    q->heap[i] = moved;
}

static void push(queue *q, uint64_t entry) {
    size_t i = q->n++;
    for (; i && q->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        q->heap[i] = q->heap[(i - 1) / 2];
    q->heap[i] = entry;
}

static uint64_t pop(queue *q) {
    uint64_t top = q->heap[0];
    q->heap[0] = q->heap[--q->n];
    if (q->n) sift_down(q, 0);
    return top;
}

/* NULL when the two do not merge. */
static const mn_merge *find_merge(const mn_text_program *p, uint32_t left, uint32_t right) {
    uint32_t low = p->merges_of[left], end = p->merges_of[left + 1], high = end;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (p->merges[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && p->merges[low].right == right ? &p->merges[low] : NULL;
}

static const mn_merge *merge_at(const mn_text_program *p, const part *parts, uint32_t at) {
    return parts[at].next == NOWHERE ? NULL : find_merge(p, parts[at].id, parts[parts[at].next].id);
}

static void push_at(const mn_text_program *p, queue *q, const part *parts, uint32_t at) {
    const mn_merge *merge = at == NOWHERE ? NULL : merge_at(p, parts, at);
    if (merge) push(q, (uint64_t)merge->rank << 32 | at);
}

/* Whether a word is one token whatever merges make of it, and which. */
static bool find_word(const mn_text_program *p, mn_bytes word, uint32_t *id) {
    uint32_t low = 0, high = p->n_words;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = mn_bytes_order(mn_token(p, p->words[middle]), word);
        *id = p->words[middle];
        if (!order) return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* Takes the part behind `at` into it. */
static void join(part *parts, uint32_t at, uint32_t merged) {
    uint32_t gone = parts[at].next;
    parts[at] = (part){merged, parts[at].before, parts[gone].next};
    if (parts[gone].next != NOWHERE) parts[parts[gone].next].before = at;
    parts[gone] = (part){0, NOWHERE, NOWHERE};
}

bool mn_merge_word(const mn_text_program *p, mn_scratch *scratch, mn_bytes word, mn_ids *out) {
    uint32_t id, n = 0;
    if (find_word(p, word, &id)) {
        mn_ids_add(out, id);
        return true;
    }
    /* At most one merge waits for each pair at the start, and each that is made brings two and takes one away. */
    uint64_t *heap = mn_scratch_reserve(scratch, word.n * (2 * sizeof *heap + sizeof(part)));
    if (!heap) return false;
    part *parts = (part *)(heap + 2 * word.n);
    for (size_t i = 0; i < word.n; i++) {
        if (p->byte_ids[word.at[i]] == UINT32_MAX) continue;
        parts[n] = (part){p->byte_ids[word.at[i]], n - 1, n + 1};
        n++;
    }
    if (!n) return true;
    parts[n - 1].next = NOWHERE;
    queue q = {heap, 0};
    for (uint32_t at = 0; at < n; at++)
        push_at(p, &q, parts, at);
    while (q.n) {
        uint64_t entry = pop(&q);
        uint32_t at = (uint32_t)entry;
        const mn_merge *merge = merge_at(p, parts, at);
        if (!merge || merge->rank != entry >> 32) continue; /* of parts that have become others since */
        join(parts, at, merge->merged);
        push_at(p, &q, parts, parts[at].before);
        push_at(p, &q, parts, at);
    }
    for (uint32_t at = 0; at != NOWHERE; at = parts[at].next)
        mn_ids_add(out, parts[at].id);
    return true;
}
