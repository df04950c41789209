package org.mossnet.sample;

/** Opens the app. */
public class Phone {
    public static void main(String[] arguments) {
        new MainActivity().onCreate(null);
    }
}
