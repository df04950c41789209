package android.widget;

import android.content.Context;
import android.view.View;

public class ScrollView extends View {
    public ScrollView(Context context) {
        super(context);
    }

    public void addView(View child) {}
}
