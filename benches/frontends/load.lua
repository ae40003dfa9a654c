-- wrk's script: each request has the cookie of the next session; one in CHANGE_EVERY changes it.
local requests, number = {}, 0

function init(_)
  local every = tonumber(os.getenv("CHANGE_EVERY"))
  for cookie in io.lines(os.getenv("COOKIES")) do
    number = number + 1
    local headers = { ["Cookie"] = cookie }
    if number % every == 0 then
      requests[number] = wrk.format("POST", "/change", headers)
    else
      requests[number] = wrk.format("GET", "/", headers)
    end
  end
  number = 0
end

function request()
  number = number % #requests + 1
  return requests[number]
end

function done(summary, latency, _)
  local errors = summary.errors
  local faults = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "faults": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, faults))
end
