// The AAR: Kotlin classes, and one libshadowllm_jni.so per ABI. `gradle assembleRelease` needs an Android SDK, an NDK and,
// for rust.sh, the Rust targets named below (`rustup target add ...`).
plugins {
    id("com.android.library") version "8.13.2"
    id("org.jetbrains.kotlin.android") version "2.2.20"
}

// Android's names of the ABIs, and Rust's.
val abis = mapOf("arm64-v8a" to "aarch64-linux-android", "x86_64" to "x86_64-linux-android")
val libraries = layout.buildDirectory.dir("rust").get().asFile

android {
    namespace = "org.shadowllm"
    compileSdk = 36
    ndkVersion = "28.2.13676358"
    defaultConfig {
        minSdk = 26
        consumerProguardFiles("consumer-rules.pro")
        ndk { abiFilters += abis.keys }
        externalNativeBuild {
            cmake { arguments += "-DSHADOWLLM_LIBRARY_DIR=$libraries" }
        }
    }
    externalNativeBuild {
        cmake { path = file("src/main/cpp/CMakeLists.txt") }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
}

kotlin {
    compilerOptions { jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_1_8 }
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.8.0")
}

val rust = abis.map { (abi, target) ->
    tasks.register<Exec>("rust_$abi") {
        commandLine("./rust.sh", target, "$libraries/$abi")
    }
}
tasks.matching { it.name.startsWith("configureCMake") || it.name.startsWith("buildCMake") }.configureEach { dependsOn(rust) }
