-- Drives POST requests with wrk and prints one JSON line of what it measured.
-- Environment: BODY, HEADERS ("Name: value|…").
wrk.method = "POST"
wrk.body = os.getenv("BODY")
wrk.headers["Content-Type"] = "application/json"
for name, value in (os.getenv("HEADERS") or ""):gmatch("([^:|]+):%s*([^|]+)") do wrk.headers[name] = value end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\nJSON {"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
