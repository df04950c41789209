package android.content;

import android.content.res.AssetManager;
import java.io.File;

/** An app whose folders and package lie in the current folder. */
public class Context {
    public AssetManager getAssets() {
        return new AssetManager();
    }

    public File getFilesDir() {
        return folder("files");
    }

    public File getCacheDir() {
        return folder("cache");
    }

    public String getPackageCodePath() {
        return new File("base.apk").getAbsolutePath();
    }

    private static File folder(String name) {
        File folder = new File(name).getAbsoluteFile();
        folder.mkdir();
        return folder;
    }
}
