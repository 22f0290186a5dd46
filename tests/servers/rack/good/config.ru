# A Rack application that names its release: RELEASE_DIR is read once, while booting.
release = File.basename(ENV.fetch("RELEASE_DIR"))

run lambda { |env|
  sleep 0.05 if env["PATH_INFO"] == "/slow"
  body = "release=#{release} pid=#{Process.pid}\n"
  [200, { "Content-Type" => "text/plain", "Content-Length" => body.bytesize.to_s }, [body]]
}
