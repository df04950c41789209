package org.mossnet.sample;

import android.app.Activity;
import android.os.Bundle;
import android.widget.ScrollView;
import android.widget.TextView;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import org.mossnet.Model;
import org.mossnet.MossnetException;
import org.mossnet.Session;
import org.mossnet.TokenSink;

/** Continues a text, on the screen as it is made. */
public class MainActivity extends Activity {
    private static final String PROMPT = "def fibonacci(n):";
    private TextView text;
    private volatile boolean destroyed;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        text = new TextView(this);
        ScrollView screen = new ScrollView(this);
        screen.addView(text);
        setContentView(screen);
        show(PROMPT);
        new Thread(this::generate).start();
    }

    @Override
    protected void onDestroy() {
        destroyed = true;
        super.onDestroy();
    }

    private void generate() {
        Model.Options options = new Model.Options();
        options.allowNative = true; // the model came with the app
        options.cacheDir = getCacheDir();
        try (Model model = Model.load(modelFile(), options);
                Session session = model.session(2)) {
            session.generate(
                    PROMPT,
                    100,
                    null,
                    TokenSink.text(
                            piece -> {
                                show(piece);
                                return !destroyed;
                            }));
        } catch (IOException | MossnetException e) {
            show("\n" + e.getMessage());
        }
    }

    /** The model as a file, which can be mapped: what is inside of an app's package cannot. */
    private File modelFile() throws IOException {
        File file = new File(getFilesDir(), "model.moss");
        // An update of the app may bring another model.
        if (file.lastModified() > new File(getPackageCodePath()).lastModified()) return file;
        File part = new File(getFilesDir(), "model.part");
        try (InputStream in = getAssets().open("model.moss");
                OutputStream out = new FileOutputStream(part)) {
            byte[] bytes = new byte[1 << 16];
            for (int n; (n = in.read(bytes)) > 0; ) out.write(bytes, 0, n);
        }
        if (!part.renameTo(file)) throw new IOException(file + " cannot be written");
        return file;
    }

    private void show(String piece) {
        runOnUiThread(() -> text.append(piece));
    }
}
