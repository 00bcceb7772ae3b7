"""The scripts that Redis runs. Each is done as a whole or not at all, and answers with the server's time first."""

from __future__ import annotations

from hashlib import sha1

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "
LOOKUP = _NOW + "return {t[1], t[2], redis.call('GET', KEYS[1])}"
LOAD = _NOW + "return {t[1], t[2], redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}"
# KEYS: ARGV[1] sources, then sessions. ARGV: that, the room, for how long, how many rooms each source may have.
PREPARE = (
    _NOW
    + """
local levels = tonumber(ARGV[1])
for i = 1, levels do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  if not redis.call('ZSCORE', KEYS[i], ARGV[2]) and redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[3 + i]) then
    return {t[1], t[2], 0}
  end
end
for i = 1, levels do
  redis.call('ZADD', KEYS[i], now + ARGV[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
for i = levels + 1, #KEYS do redis.call('SET', KEYS[i], ARGV[2], 'PX', ARGV[3]) end
return {t[1], t[2], 1}
"""
)
# KEYS: the room's fields, its log. ARGV: the change as it is published, for how long, the version it was made from,
# the one that it makes, whether what was stored goes first; then four lists with their lengths before them: fields and
# values, fields that go, entries by seq, seqs that go. What is left are the channels of the nodes that are told.
STEP = (
    _NOW
    + """
if (redis.call('HGET', KEYS[1], 'v') or '') ~= ARGV[3] then return {t[1], t[2], 0} end
if ARGV[5] == '1' then redis.call('DEL', KEYS[1], KEYS[2]) end
redis.call('HSET', KEYS[1], 'v', ARGV[4])
local at = 6
for _, list in ipairs({{KEYS[1], 2}, {KEYS[1], 1}, {KEYS[2], 2}, {KEYS[2], 1}}) do
  local last = at + tonumber(ARGV[at]) * list[2]
  for i = at + 1, last, list[2] do
    if list[2] == 2 then redis.call('HSET', list[1], ARGV[i], ARGV[i + 1]) else redis.call('HDEL', list[1], ARGV[i]) end
  end
  at = last + 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
for i = at, #ARGV do redis.call('PUBLISH', ARGV[i], ARGV[1]) end
return {t[1], t[2], 1}
"""
)
# KEYS: the guesses. ARGV: how many more, the half-life, for how long; then which node asks, how many of its nameplates
# wait to be claimed, for how long that counts.
GUESSES = (
    _NOW
    + """
local known = redis.call('HMGET', KEYS[1], 'amount', 'at')
local amount = (tonumber(known[1]) or 0) * 2 ^ (math.min(0, (tonumber(known[2]) or now) - now) / 1000 / ARGV[2])
if tonumber(ARGV[1]) > 0 then
  amount = amount + ARGV[1]
  redis.call('HSET', KEYS[1], 'amount', tostring(amount), 'at', string.format('%.0f', now))
end
redis.call('HSET', KEYS[1], 'w:' .. ARGV[4], ARGV[5] .. ':' .. string.format('%.0f', now + ARGV[6]))
redis.call('EXPIRE', KEYS[1], ARGV[3])
local waiting, fields = 0, redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 2) == 'w:' then
    local count, last = string.match(fields[i + 1], '(%d+):(%d+)')
    if (tonumber(last) or 0) > now then waiting = waiting + count else redis.call('HDEL', KEYS[1], fields[i]) end
  end
end
return {t[1], t[2], tostring(amount), tostring(waiting)}
"""
)
# KEYS: budgets, one for each level. ARGV: how many charges, for how long; of each its kind, its cost, whether it is
# needed, burst and rate; then each level's scale. Answer: whether it was paid, then what is left, by level and charge.
PAY = (
    _NOW
    + """
local count, left, paid = tonumber(ARGV[1]), {}, 1
for i, key in ipairs(KEYS) do
  local scale = tonumber(ARGV[2 + 5 * count + i])
  for k = 1, count do
    local at = 2 + 5 * (k - 1)
    local burst, per_s = ARGV[at + 4] * scale, ARGV[at + 5] * scale
    local tokens, stored = burst, redis.call('HGET', key, ARGV[at + 1])
    if stored then
      local held, since = string.match(stored, '([^:]+):([^:]+)')
      tokens = math.min(burst, held + math.max(0, now - since) / 1000 * per_s)
    end
    left[#left + 1] = tokens
    if ARGV[at + 3] == '1' and tokens < tonumber(ARGV[at + 2]) then paid = 0 end
  end
end
local answer = {t[1], t[2], paid}
for i, key in ipairs(KEYS) do
  for k = 1, count do
    local at, n = 2 + 5 * (k - 1), (i - 1) * count + k
    if paid == 1 and left[n] >= tonumber(ARGV[at + 2]) then
      left[n] = math.min(ARGV[at + 4] * ARGV[2 + 5 * count + i], left[n] - ARGV[at + 2])
      redis.call('HSET', key, ARGV[at + 1], string.format('%.6f:%.0f', left[n], now))
    end
    answer[#answer + 1] = tostring(left[n])
  end
  -- The budgets of one source share a key: it lives as long as the slowest of them takes to be full again.
  if paid == 1 and redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return answer
"""
)

DIGESTS = {
    script: sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (LOOKUP, LOAD, PREPARE, STEP, GUESSES, PAY)
}
