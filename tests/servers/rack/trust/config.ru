# A Rack application that boots, and then is what the file `behaviour` of its release says.
#
# `sick`: its health is 500. `wakes`: 503, until the test has opened the gate "awake". `hangs`: no answer, until it has
# opened the gate "hang". `dies`: all is well in its rehearsal, and in slot 1 it ends itself behind the gate "die".
require "socket"

release = File.basename(ENV.fetch("RELEASE_DIR"))
slot, phase = ENV.fetch("WORKER_INDEX"), ENV.fetch("WORKER_PHASE")
behaviour = File.read("behaviour").strip
awake = false

# Waits at a gate of the test; nil when the test is over.
passed = lambda { |gate|
  UNIXSocket.open("../../gates.sock") do |test|
    test.write("gate #{gate} #{Process.pid} #{slot} #{phase} #{release}\n")
    test.read(1)
  end
}

Thread.new { awake = true if passed.call("awake") } if behaviour == "wakes"
Thread.new { Process.kill(:TERM, Process.getpgrp) if passed.call("die") } if behaviour == "dies" && slot == "1"

health = lambda {
  case behaviour
  when "sick" then next [500, "no database"]
  when "hangs" then passed.call("hang")
  when "wakes"
    unless awake
      $stdout.syswrite("health: still waking up\n")
      next [503, "still waking up"]
    end
  end
  [200, "well"]
}

run lambda { |env|
  status, body = 200, "release=#{release} pid=#{Process.pid}"
  status, body = health.call if env["PATH_INFO"] == "/health"
  body += "\n"
  [status, { "Content-Type" => "text/plain", "Content-Length" => body.bytesize.to_s }, [body]]
}
