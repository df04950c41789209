package org.mossnet;

/**
 * How tokens are picked. Filters apply in this order, each to what the one before left: repetition penalty, topK, topP,
 * minP, temperature. As it begins, it is the likeliest token each time.
 */
public final class Sampling {
    /** 0: the likeliest token. */
    public float temperature;
    /** The fewest likeliest tokens that together have this probability; 1: off. */
    public float topP = 1;
    /** Tokens at least this likely relative to the likeliest; 0: off. */
    public float minP;
    /** Logits of recent tokens: positive ones are divided, others multiplied; 1: off. */
    public float repetitionPenalty = 1;
    /** The k likeliest tokens; 0: off. */
    public int topK;
    /** How many tokens are recent; 0: none. */
    public int repetitionWindow;
    /** The same seed gives the same text. */
    public long seed;
}
