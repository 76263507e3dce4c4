-- inspection: how a worker is shown to the operator.
-- include: workers queues

-- The milliseconds since a time in a record; nil: there is no time.
local function since(time)
  return tonumber(time) and math.max(0, now - tonumber(time)) or nil
end

-- A worker as `pool/inspection.py` reads it; nil: it does not exist any more.
local function show_worker(worker)
  local is = call('HMGET', record(worker), 'state', 'runtime', 'image', 'started', 'ready', 'target', 'project',
    'drain', 'recalled', 'kept', 'holder', 'execution', 'granted', 'accepted', 'new')
  local state, target = is[1], is[6] or nil
  if not state then return nil end
  local shown = {
    id = worker, state = state, runtime = is[2], image = is[3] or '', age_ms = since(is[4] or is[5]), target = target,
    project = target and is[7] or nil, ends = is[8] == '1', recalled = (tonumber(is[9]) or 0) > now,
    kept = is[10] == '1',
  }
  if state == 'leased' then
    local deadline = tonumber(call('ZSCORE', LEASES, worker)) or now
    shown.lease = {
      holder = is[11], execution = is[12], age_ms = since(is[13]), left_ms = deadline - now, accepted = is[14] == '1',
      granted = tonumber(is[13]), is_first = is[15] == '1', ready = tonumber(is[5]) or 0,
    }
  elseif state == 'idle' then
    shown.unused_ms = since(call('ZSCORE', P .. 'idle:' .. target, worker))
  elseif state == 'warm' then
    shown.unused_ms = since(call('ZSCORE', P .. 'warm:' .. is[2], worker))
  end
  return shown
end
