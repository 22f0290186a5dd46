require "socket"

# An application with threads, that names its release: RELEASE_DIR is read once, while booting.
module Shop
  RELEASE = File.basename(ENV.fetch("RELEASE_DIR"))
  LOCK = Mutex.new
  @inside = 0

  # Waits at a gate of the test, and says how many of this process' threads stood there with it.
  def self.meet
    seen = LOCK.synchronize { @inside += 1 }
    UNIXSocket.open("../../gates.sock") do |test|
      test.write("gate meet #{Process.pid} #{ENV['WORKER_INDEX']} #{ENV['WORKER_PHASE']} #{RELEASE}\n")
      test.read(1)
    end
    LOCK.synchronize { @inside -= 1 }
    seen
  end

  def self.call(env)
    body = case env["PATH_INFO"]
           when "/meet" then "inside=#{meet}"
           when "/concurrency" then "WEB_CONCURRENCY=#{ENV['WEB_CONCURRENCY'].inspect}"
           else "release=#{RELEASE} pid=#{Process.pid}"
           end
    [200, { "Content-Type" => "text/plain", "Content-Length" => (body.bytesize + 1).to_s }, ["#{body}\n"]]
  end
end
