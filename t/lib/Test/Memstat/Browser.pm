# A Chromium without a window, controlled by chromedriver over the WebDriver protocol.
package Test::Memstat::Browser;

use strict;
use warnings;

use File::Temp;
use HTTP::Tiny;
use JSON::PP;
use MIME::Base64 qw(decode_base64);
use Time::HiRes qw(sleep time);

use Test::Memstat::Child;
use Test::Memstat::Proc qw(read_file);

my $JSON = JSON::PP->new->utf8->allow_nonref;

# How long to wait for an effect on the page, in seconds.
my $PATIENCE = 60;

my @ARGUMENTS = qw(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync
    --disable-dev-shm-usage);

sub new {
    my ($class) = @_;
    my $folder = File::Temp->newdir('memstat-XXXXXX', TMPDIR => 1);
    my $self = bless {
        folder => $folder, started_by => $$,
        http => HTTP::Tiny->new(timeout => 60, proxy => undef, http_proxy => undef),
    }, $class;
    $self->_start;
    my @arguments = (@ARGUMENTS, "--user-data-dir=$folder/profile", '--window-size=1280,1000');
    my $session = $self->_call(POST => '/session', {
        capabilities => { alwaysMatch => {
            browserName => 'chrome',
            'goog:chromeOptions' => { binary => '/usr/bin/chromium', args => \@arguments },
            'goog:loggingPrefs' => { browser => 'ALL', performance => 'ALL' },
        } },
    });
    $self->{session} = "/session/$session->{sessionId}";
    return $self;
}

sub _start {
    my ($self) = @_;
    my $log = "$self->{folder}/chromedriver.log";
    $self->{driver} = Test::Memstat::Child->new($log, 'chromedriver', '--port=0');
    my $deadline = time + $PATIENCE;
    while (1) {
        my $said = read_file($log) // '';
        if ($said =~ /started successfully on port (\d+)/) {
            $self->{base} = "http://127.0.0.1:$1";
            return;
        }
        die "chromedriver does not start:\n$said" if time > $deadline;
        sleep 0.05;
    }
}

sub _call {
    my ($self, $method, $path, $data) = @_;
    my %options = defined $data
        ? (content => $JSON->encode($data), headers => { 'Content-Type' => 'application/json' }) : ();
    my $answer = $self->{http}->request($method, "$self->{base}$path", \%options);
    my $reply = eval { $JSON->decode($answer->{content}) };
    die "$method $path: $answer->{status} $answer->{content}\n" unless $answer->{success} && $reply;
    return $reply->{value};
}

sub _session { my ($self, $method, $path, $data) = @_; return $self->_call($method, "$self->{session}$path", $data) }

sub open { my ($self, $url) = @_; $self->_session(POST => '/url', { url => $url }); return $self }

sub title { return $_[0]->_session(GET => '/title') }

# Calls a JavaScript function with these arguments. Returns its result.
sub run {
    my ($self, $code, @arguments) = @_;
    return $self->_session(POST => '/execute/sync', { script => $code, args => \@arguments });
}

# Waits until a function returns a true value. Returns this value.
sub wait_for {
    my ($self, $what, $code, @arguments) = @_;
    my $deadline = time + $PATIENCE;
    while (1) {
        my $result = $self->run($code, @arguments);
        return $result if $result;
        die "waited $PATIENCE s in vain: $what\n" if time > $deadline;
        sleep 0.05;
    }
}

sub _element {
    my ($self, $selector) = @_;
    my $found = $self->_session(POST => '/element', { using => 'css selector', value => $selector });
    return (values %$found)[0];
}

sub click { my ($self, $selector) = @_; $self->_session(POST => '/element/' . $self->_element($selector) . '/click', {}); return $self }

# Types keys into an element, which gets the focus first.
sub type {
    my ($self, $selector, $keys) = @_;
    $self->_session(POST => '/element/' . $self->_element($selector) . '/value', { text => $keys });
    return $self;
}

# Presses keys in the element with the focus.
sub press {
    my ($self, @keys) = @_;
    my @actions = map { ({ type => 'keyDown', value => $_ }, { type => 'keyUp', value => $_ }) } @keys;
    $self->_session(POST => '/actions', { actions => [ { type => 'key', id => 'keys', actions => \@actions } ] });
    return $self;
}

# Sends a command of the DevTools protocol.
sub devtools {
    my ($self, $command, %parameters) = @_;
    return $self->_session(POST => '/goog/cdp/execute', { cmd => $command, params => \%parameters });
}

# Sets the colour scheme (light or dark) and the width of the page.
sub look {
    my ($self, $scheme, $width) = @_;
    $self->devtools('Emulation.setEmulatedMedia',
        features => [ { name => 'prefers-color-scheme', value => $scheme } ]);
    $self->devtools('Emulation.setDeviceMetricsOverride',
        width => $width, height => 1000, deviceScaleFactor => 1, mobile => JSON::PP::false);
    return $self;
}

# Returns the console's messages since the last call: hashes with level and message.
sub console { return @{ $_[0]->_session(POST => '/se/log', { type => 'browser' }) } }

# Returns the addresses of all requests since the last call.
sub requests {
    my ($self) = @_;
    my @events = map { $JSON->decode($_->{message})->{message} }
        @{ $self->_session(POST => '/se/log', { type => 'performance' }) };
    return map { $_->{params}{request}{url} } grep { $_->{method} eq 'Network.requestWillBeSent' } @events;
}

# Returns an image of the whole page as PNG. There is no scroll bar on it: the page has its room, too.
sub picture {
    my ($self) = @_;
    my $page = $self->devtools('Page.getLayoutMetrics')->{cssContentSize};
    my $shot = $self->devtools('Page.captureScreenshot', captureBeyondViewport => JSON::PP::true,
        clip => { %$page, width => $self->run('return innerWidth'), scale => 1 });
    return decode_base64($shot->{data});
}

sub stop {
    my ($self) = @_;
    my $driver = delete $self->{driver} or return;
    if (my $session = delete $self->{session}) {
        eval { $self->_call(DELETE => $session) };
    }
    return $driver->stop;
}

sub DESTROY {
    my ($self) = @_;
    local ($?, $@, $!);
    $self->stop if $self->{started_by} == $$;
    return;
}

1;
