-- Drives POST requests with wrk and prints one JSON line of what it measured.
-- Environment: BODY (sent as it is; %TOKEN% becomes a number that grows), HEADERS ("Name: value|…"),
-- ADDRESSES ("host:port …", one a thread; unset: the URL's).
local body = os.getenv("BODY")
local headers = { ["Content-Type"] = "application/json" }
for name, value in (os.getenv("HEADERS") or ""):gmatch("([^:|]+):%s*([^|]+)") do headers[name] = value end
local addresses, secrets = {}, {}
for address in (os.getenv("ADDRESSES") or ""):gmatch("%S+") do addresses[#addresses + 1] = address end
for secret in (os.getenv("SECRETS") or ""):gmatch("%S+") do secrets[#secrets + 1] = secret end

local threads = 0
function setup(thread)
  threads = threads + 1
  if addresses[threads] then
    local host, port = addresses[threads]:match("^(.*):(%d+)$")
    thread.addr = wrk.lookup(host, port)[1]
    thread:set("secret", secrets[threads])
  end
end

local token = 0
function init()
  if secret then headers["X-Worker-Secret"] = secret end
  token = os.time() * 1000000
end

function request()
  token = token + 1
  return wrk.format("POST", nil, headers, (body:gsub("%%TOKEN%%", string.format("%.0f", token))))
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\nJSON {"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
