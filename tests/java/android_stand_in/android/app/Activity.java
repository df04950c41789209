package android.app;

import android.content.Context;
import android.os.Bundle;
import android.view.View;

/** As far as the sample uses it; the screen is standard output. */
public class Activity extends Context {
    protected void onCreate(Bundle state) {}

    protected void onDestroy() {}

    public void setContentView(View view) {}

    public final void runOnUiThread(Runnable action) {
        action.run();
    }
}
